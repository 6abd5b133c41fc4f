"""What the tracker is made of: ledgers, members, booking, coverage, marks, snapshots."""
