"""From a properties file to a judged flow: properties (text) -> flow (wiring) -> fields (typed values)."""
