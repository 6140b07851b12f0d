"""Log -> ClickHouse, exactly once."""
