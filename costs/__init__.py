"""An estimate of what a federation costs on AWS, from published prices and the requests of the code."""
