"""What makes a worker hard to stop. Nothing here knows which tasks the app has."""
