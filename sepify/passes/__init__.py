"""GraphModule -> GraphModule, one file a pass. torch only: no files, no data, no TVM."""
