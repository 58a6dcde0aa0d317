"""What stands between the code and the machine: files read and written whole, processes, scripts and what they leave."""
