"""What a conversion found, for people (terminal, one HTML page) and for machines (JSON)."""
