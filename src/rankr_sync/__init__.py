"""rankr-sync mirrors the HighLevel CRM into a SQL store and keeps the mirror fresh.

Read in this order: `model`, `plan`, `streams/contacts`, `engine`, `app`.
"""

__version__ = "0.1.0"
