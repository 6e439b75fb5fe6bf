"""The steps of the pipeline, one PTransform a file. Beam only here and above.

`EncodeInstances` is the step that a pipeline of your own would take.
"""
