import java.io.FileOutputStream;
import java.io.PrintStream;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FsShell;
import org.apache.hadoop.util.ToolRunner;

/** `hdfs dfs -text FILE` for each argument, in one process; what it prints goes to FILE.text. */
public class Text {
    public static void main(String[] files) throws Exception {
        for (String file : files) {
            try (PrintStream out = new PrintStream(new FileOutputStream(file + ".text"))) {
                System.setOut(out);
                int code = ToolRunner.run(new Configuration(), new FsShell(), new String[] {"-text", "file://" + file});
                if (code != 0) System.err.println(file + " ended with " + code);
            }
        }
    }
}
