import os

# Configurations are written here, and one that a group may write is refused.
os.umask(0o022)
