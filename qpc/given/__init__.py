"""What is given on the command line: models, inputs and data, by what is written for them."""
