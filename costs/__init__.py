"""What a federation costs on AWS, computed from published prices and from what the code asks for."""
