"""What the kernel tells of a process and its sockets, whatever server it is."""
