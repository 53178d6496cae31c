"""Numbers of a running job, handed to TensorBoard or trackio where the file names them."""
