"""Documents of the Open Container Initiative as Structs, and the pure functions over them."""
