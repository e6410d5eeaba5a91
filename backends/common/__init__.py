"""What any code generator needs to know of a graph before it makes code, without TVM."""
