"""Other people's clients, with the settings that docs/clients.md shows for them, word for word."""
