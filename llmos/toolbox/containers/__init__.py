"""Docker's containers, images, volumes and networks as typed tools, through the docker SDK."""
