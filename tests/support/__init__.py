"""What tests share. README.md has a line for each module."""
