"""What each verb does, for any backend."""
