"""What the daemon serves over HTTP: health, metrics, and the status page behind its access control."""
