"""What turns snapshots into a wire format."""
