"""What other settings would have done with the load that was recorded. Pure: no I/O, no clock."""
