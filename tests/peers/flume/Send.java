import java.io.FileReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.flume.Event;
import org.apache.flume.api.RpcClient;
import org.apache.flume.api.RpcClientFactory;
import org.apache.flume.event.EventBuilder;

/**
 * Sends events with Flume's own RPC client: {@code Send CLIENT.PROPERTIES TEST COUNT BATCH}. The first BATCH events
 * go out one by one with append, the others with appendBatch. Event i has the body "i" and the headers test and number. Prints "sent COUNT".
 */
public final class Send {
  public static void main(String[] args) throws Exception {
    Properties properties = new Properties();
    try (FileReader reader = new FileReader(args[0])) {
      properties.load(reader);
    }
    int count = Integer.parseInt(args[2]);
    int batch = Integer.parseInt(args[3]);
    RpcClient client = RpcClientFactory.getInstance(properties);
    try {
      List<Event> events = new ArrayList<>();
      for (int i = 0; i < count; i++) {
        Map<String, String> headers = new HashMap<>();
        headers.put("test", args[1]);
        headers.put("number", Integer.toString(i));
        Event event = EventBuilder.withBody(Integer.toString(i).getBytes(StandardCharsets.UTF_8), headers);
        if (i < batch) {
          client.append(event);
          continue;
        }
        events.add(event);
        if (events.size() == batch || i == count - 1) {
          client.appendBatch(events);
          events.clear();
        }
      }
    } finally {
      client.close();
    }
    System.out.println("sent " + count);
  }
}
