"""What the tests need besides the clients that they test."""
