"""Rules of integer operators, by family: which kernel each becomes, and what that can do."""
