"""The page where a person types a prompt and watches the model learn.

A process of its own and a client of the service's public HTTP API, nothing else: ``client`` speaks
it, ``curves`` and ``words`` turn answers into what is shown, ``page`` puts it together.
"""
