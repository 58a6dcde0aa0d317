"""The layer between the code and the machine: reading and writing files completely, processes, scripts and histories."""
