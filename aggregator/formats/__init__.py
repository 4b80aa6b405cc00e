"""What is inside the files of the hdfs and hive sinks. Pure: batches in, bytes out."""
