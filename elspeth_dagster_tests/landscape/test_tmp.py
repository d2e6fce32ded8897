import sqlalchemy as sa
def test_x(landscape, empty_url):
    with landscape.read() as c:
        assert c.scalar(sa.text("select count(*) from runs")) == 0
