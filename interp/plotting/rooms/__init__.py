"""The pictures of each room's results, found by the room's name."""
