"""Who is there, and what they may do: users from a file, SASL as state machines, rights from the configuration. No I/O
but the reading of the users' file.

    users.py   the file: names and SCRAM verifiers         scram.py   SCRAM-SHA-256 and -512, the server's side
    sasl.py    which mechanisms are offered, and PLAIN     acl.py     rights of a principal
"""
