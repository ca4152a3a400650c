"""What a result looks like to people and programs: benchmark logs, tables, JSON, plots."""
