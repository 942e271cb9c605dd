"""Bytes by digest: blobs and the resumable ingests that become blobs."""
