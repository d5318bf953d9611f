"""Load generators. Each one checks what it got, and raises :class:`load.http.WrongAnswerError` when it is not right."""
