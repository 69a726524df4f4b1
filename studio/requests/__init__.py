"""What a user asks for, in one typed form each."""
