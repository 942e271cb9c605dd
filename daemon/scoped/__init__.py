"""Raw stores seen from within a namespace: records, leases and events around them."""
