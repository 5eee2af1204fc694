"""The embedded cloud: a federation on one machine, through the code that runs on AWS.

moto answers for S3 and SQS, the Lambda Runtime Interface Emulator runs the handler, an event pump does
what Lambda's event source mapping does, and a federation of simulated clients trains a model with it.
"""
