"""The status page: what people see of the mirror in a browser. Rendered here, without scripts from anywhere else."""
