"""Tools that three islands or more need. Knows no island."""
