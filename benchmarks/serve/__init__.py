"""Load on a risk server: the book it has, the requests it gets, what is measured."""
