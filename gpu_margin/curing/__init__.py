"""The smallest cure: the cheapest trades that bring an account's margin back under its collateral.

`risk` says what a requirement is to a linear programme, `programme` what may be traded and what
one programme answers, `search` goes from programme to programme until the trades are whole lots
that hold; `plan` and `finished` do that for an account of a finished run.
"""
