"""The benchmark of `stiefel bench`: small enough to read, honest enough to quote.

    text, gpt, settings -> training -> race -> standings -> figure -> report

Each module knows only those to its left. A `Run` trains one model with one optimiser; a race is
every optimiser at every learning rate with every seed; the standings say who did how well.
Beside them, `checkpoint` stops and resumes a run, `live` shows it, `machine` says where it ran.
"""
