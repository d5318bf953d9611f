"""What every scenario stands on: cores, processes, CPU and memory from /proc, rounds, the table."""
