"""A convolutional network trained on real images, from the command line: ``python -m examples.demo``.

``data.py`` reads the images, ``model.py`` is the network, ``training.py`` the training step and the loop around it,
``report.py`` what is printed and written; ``__main__.py`` reads the options and puts the four together.
"""
