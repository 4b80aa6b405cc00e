"""What the kafka source, channel and sink share."""
