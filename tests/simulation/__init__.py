"""The seeded simulator: production coordinator, folder, dispatcher and SQL in a made-up world."""
