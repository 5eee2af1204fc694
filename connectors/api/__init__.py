"""The API for clients without AWS credentials: enroll, see the model, send updates, see their fate.

Only enrolling needs the database. Everything else is answered from the bucket, so that clients that poll do
not keep the database awake.
"""
