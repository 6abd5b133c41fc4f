"""The risk server: questions and changes to a resident book, over HTTP."""
