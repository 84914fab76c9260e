"""What crosses a process: keys, records and words that workers, supervisors and operators share."""
