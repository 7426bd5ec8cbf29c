"""Cells of one's own: a Python function of one time step becomes the C++ header of a cell.

``names`` checks what a cell is declared with, ``trace`` records what the function computes as a ``graph`` of ``nodes``,
each an operation of ``ops``; ``derive`` adds the backward pass, ``keep`` says what forward keeps for it, and ``emit``
prints both as C++. All of it is plain Python and runs without the extension.
"""
