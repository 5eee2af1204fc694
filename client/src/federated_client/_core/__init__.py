"""The readers and writers of the weights formats, shared with the aggregator.

The modules beside this one are symbolic links into ``aggregation/``: the client checks a file with the
code that checks it again when it arrives, so that both refuse the same files in the same words. A wheel
contains copies. The modules import each other relatively, and neither Django nor AWS.
"""
