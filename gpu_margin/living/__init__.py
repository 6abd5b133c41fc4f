"""Parts of a live book: questions in codes, answers, records that change it."""
