"""Programs that show batiste at work; each is run in the tests."""
