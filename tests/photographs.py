"""Where the faces of photographs are that tests fit."""

ASTRONAUT_BOX = [173.0, 66.0, 275.0, 168.0]  # of skimage.data.astronaut(): x1 y1 x2 y2, px
